-- Has the database room left on its disk? A write to a page that is there says nothing of it. PostgreSQL
-- keeps what a function returns in a temporary file where it does not fit into work_mem: 140 kB beside the
-- tables, removed at once; no row, no WAL, no lock. Without room it fails with 53100, as a table that has to
-- grow does.
CREATE FUNCTION write_temporary_file() RETURNS TABLE (rows bigint)
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM set_config('runengine.dispatch', 'on', true);
    PERFORM set_config('work_mem', '64kB', true), set_config('temp_tablespaces', '', true);
    RETURN QUERY SELECT count(*) FROM generate_series(1, 10000);
END
$$;
