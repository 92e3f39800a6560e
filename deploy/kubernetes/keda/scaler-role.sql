-- By the owner of the database. The role may count the runs of all tenants, under the policy by which workers
-- find them, and read nothing else of them. So it needs no BYPASSRLS, which only a superuser may give.
CREATE ROLE engine_scaler LOGIN;
GRANT USAGE ON SCHEMA public TO engine_scaler;
GRANT SELECT (status, queued_at, lease_expires_at) ON public.runs TO engine_scaler;
