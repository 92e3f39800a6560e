-- What nodes keep in runtime.store, by namespace and key; namespaces are as in graph_tables.py. Those that begin
-- with a path are the namespaces from that path, ".users.", until ".users/": in the order of bytes / follows the dot.

-- The items of those namespaces and keys.
CREATE FUNCTION get_store_items(_tenant text, _namespaces text[], _keys text[])
RETURNS TABLE (namespace text, key text, value json, created_at timestamptz, updated_at timestamptz)
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
#variable_conflict use_column
BEGIN
    PERFORM set_config('runengine.tenant', _tenant, true);
    RETURN QUERY SELECT found.* FROM unnest(_namespaces, _keys) AS named(namespace, key) CROSS JOIN LATERAL (
            SELECT items.namespace, items.key, items.value, items.created_at, items.updated_at
            FROM public.store_items AS items
            WHERE items.tenant_id = _tenant AND items.namespace = named.namespace AND items.key = named.key LIMIT 1
        ) AS found;
END
$$;

-- The items of all namespaces that begin with a path, last changed first; _filter is as in has_fields.
CREATE FUNCTION search_store_items(_tenant text, _path text, _filter text, _limit bigint, _offset bigint)
RETURNS TABLE (namespace text, key text, value json, created_at timestamptz, updated_at timestamptz)
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
#variable_conflict use_column
DECLARE
    until text := left(_path, -1) || '/';
BEGIN
    PERFORM set_config('runengine.tenant', _tenant, true);
    IF _filter IS NULL THEN
        RETURN QUERY SELECT namespace, key, value, created_at, updated_at FROM public.store_items
            WHERE tenant_id = _tenant AND namespace >= _path AND namespace < until
            ORDER BY updated_at DESC, namespace, key LIMIT _limit OFFSET _offset;
    ELSE
        RETURN QUERY SELECT namespace, key, value, created_at, updated_at FROM public.store_items
            WHERE tenant_id = _tenant AND namespace >= _path AND namespace < until
                AND has_fields(value::jsonb, _filter::jsonb)
            ORDER BY updated_at DESC, namespace, key LIMIT _limit OFFSET _offset;
    END IF;
END
$$;

-- Whether an object has all fields of a filter. A field that it lacks counts as null.
CREATE FUNCTION has_fields(_value jsonb, _filter jsonb) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT coalesce(bool_and(matches(coalesce(_value -> wanted.key, 'null'), wanted.value)), true)
    FROM jsonb_each(_filter) AS wanted
$$;

-- Whether a value is what a filter wants: an object with operators is all of their comparisons, any other object
-- the fields that an object must have, a list what each item must be, and all else the value itself.
CREATE FUNCTION matches(_value jsonb, _wanted jsonb) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
    IF jsonb_typeof(_wanted) = 'object' THEN
        IF EXISTS (SELECT FROM jsonb_object_keys(_wanted) AS name WHERE starts_with(name, '$')) THEN
            RETURN (SELECT bool_and(compares(_value, condition.key, condition.value))
                FROM jsonb_each(_wanted) AS condition);
        END IF;
        RETURN jsonb_typeof(_value) = 'object' AND has_fields(_value, _wanted);
    ELSIF jsonb_typeof(_wanted) = 'array' THEN
        RETURN jsonb_typeof(_value) = 'array' AND jsonb_array_length(_value) = jsonb_array_length(_wanted)
            AND (SELECT coalesce(bool_and(matches(_value -> (place - 1)::int, item)), true)
                FROM jsonb_array_elements(_wanted) WITH ORDINALITY AS wanted(item, place));
    END IF;
    RETURN _value = _wanted;
END
$$;

-- A number is compared with numbers and a text with texts, by code points, which is the order of times in ISO
-- 8601; anything else is neither greater nor less.
CREATE FUNCTION compares(_value jsonb, _operator text, _operand jsonb) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    difference int;
BEGIN
    IF _operator = '$eq' THEN
        RETURN _value = _operand;
    ELSIF _operator = '$ne' THEN
        RETURN _value <> _operand;
    ELSIF jsonb_typeof(_value) <> jsonb_typeof(_operand) THEN
        RETURN false;
    ELSIF jsonb_typeof(_operand) = 'number' THEN
        difference := sign((_value #>> '{}')::numeric - (_operand #>> '{}')::numeric);
    ELSIF jsonb_typeof(_operand) = 'string' THEN
        difference := ((_value #>> '{}') COLLATE "C" > _operand #>> '{}')::int
            - ((_value #>> '{}') COLLATE "C" < _operand #>> '{}')::int;
    ELSE
        RETURN false;
    END IF;
    RETURN CASE _operator WHEN '$gt' THEN difference > 0 WHEN '$gte' THEN difference >= 0
        WHEN '$lt' THEN difference < 0 WHEN '$lte' THEN difference <= 0 END;
END
$$;

-- The namespaces that have items, begin with a path and match all patterns, which are regular expressions; with
-- _depth no more than that many labels of each. Each namespace is one descent of the index, however many items it
-- has. Sorted by labels: in the text of a path, a label that contains "!" comes before the end of the label.
CREATE FUNCTION list_store_namespaces(_tenant text, _path text, _patterns text[], _depth int, _limit bigint,
    _offset bigint)
RETURNS TABLE (namespace text) LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
#variable_conflict use_column
DECLARE
    until text := left(_path, -1) || '/';
BEGIN
    PERFORM set_config('runengine.tenant', _tenant, true);
    RETURN QUERY WITH RECURSIVE found AS (
        (SELECT items.namespace FROM public.store_items AS items
        WHERE tenant_id = _tenant AND items.namespace >= _path AND items.namespace < until
        ORDER BY items.namespace LIMIT 1)
        UNION ALL
        SELECT next.namespace FROM found CROSS JOIN LATERAL (
            SELECT items.namespace FROM public.store_items AS items
            WHERE tenant_id = _tenant AND items.namespace > found.namespace AND items.namespace < until
            ORDER BY items.namespace LIMIT 1
        ) AS next
    ), named AS (
        SELECT DISTINCT CASE WHEN _depth IS NULL THEN found.namespace ELSE
            array_to_string(labels[1:least(_depth + 1, cardinality(labels) - 1)], '.') || '.' END AS name
        FROM found CROSS JOIN LATERAL string_to_array(found.namespace, '.') AS split(labels)
        WHERE found.namespace ~ ALL(_patterns)
    )
    SELECT name FROM named ORDER BY string_to_array(name, '.') COLLATE "C" LIMIT _limit OFFSET _offset;
END
$$;

-- What a run that is held puts into the store: all of it or nothing. A value that is NULL deletes the item. One
-- after the other in the order of their keys, so that two runs lock them in the same order and cannot deadlock.
CREATE FUNCTION write_store_items(_tenant text, _run uuid, _epoch bigint, _namespaces text[], _keys text[],
    _values text[])
RETURNS TABLE (held int) LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
#variable_conflict use_column
DECLARE
    item record;
    written_at timestamptz;
BEGIN
    PERFORM set_config('runengine.tenant', _tenant, true);
    held := hold_lease(_tenant, _run, _epoch);
    IF held IS NULL THEN
        RETURN;
    END IF;
    FOR item IN SELECT * FROM unnest(_namespaces, _keys, _values) AS written(namespace, key, value)
        ORDER BY namespace COLLATE "C", key COLLATE "C"
    LOOP
        IF item.value IS NULL THEN
            DELETE FROM public.store_items
            WHERE tenant_id = _tenant AND namespace = item.namespace AND key = item.key;
        ELSE
            -- Read once, so that one that was never changed has two equal times.
            written_at := clock_timestamp();
            INSERT INTO public.store_items (tenant_id, namespace, key, value, created_at, updated_at)
            VALUES (_tenant, item.namespace, item.key, item.value::json, written_at, written_at)
            ON CONFLICT (tenant_id, namespace, key) DO UPDATE
                SET value = excluded.value, updated_at = excluded.updated_at;
        END IF;
    END LOOP;
    RETURN NEXT;
END
$$;
