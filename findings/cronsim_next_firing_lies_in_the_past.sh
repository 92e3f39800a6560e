#!/bin/sh
# cronsim: in the second of a doubled hour, the next firing lies in the past.
#
# One would guess: next(CronSim(expression, now)) is later than now.
# What happens: for a job at a given hour, with now in the second 2:15 of the night in which the clocks are
#   put back, it returns the first 2:30, which was three quarters of an hour ago. (A job fires once in such
#   a night, the first time: that is as Debian's cron has it.)
# Source: cronsim 2.8: with neither minute nor hour beginning with a star it goes on without the time zone,
#   and so without `fold`, and puts the zone back with fold=0.
# Why it matters: a scheduler that stores the next firing, computed from now when a schedule is created or
#   changed, or after it was down, fires at once, a second time that night. croniter 7.0.0 does not do this,
#   but fires at both 2:30s.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq --disable-pip-version-check cronsim==2.8 croniter==7.0.0 tzdata==2026.6
"$folder/venv/bin/python" - <<'PYTHON'
import sys
from datetime import datetime, timezone
from zoneinfo import ZoneInfo

from croniter import croniter
from cronsim import CronSim

BERLIN, EXPRESSION = ZoneInfo("Europe/Berlin"), "30 2 * * *"
now = datetime(2026, 10, 25, 1, 15, tzinfo=timezone.utc).astimezone(BERLIN)
found = next(CronSim(EXPRESSION, now))
late = (now.astimezone(timezone.utc) - found.astimezone(timezone.utc)).total_seconds() / 60
print(f"now {now.isoformat()}, next {found.isoformat()}: {late:g} minutes ago")
evening = datetime(2026, 10, 24, 12, tzinfo=BERLIN)
both = croniter(EXPRESSION, evening)
print("croniter:", *(both.get_next(datetime).isoformat() for _ in range(3)))
sys.exit(late != 45)
PYTHON
echo "as described: the next firing was 45 minutes ago"
