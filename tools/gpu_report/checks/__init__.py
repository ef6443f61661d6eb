"""One module a check, each with `run(context, findings)`. Names and time are in report.py."""
