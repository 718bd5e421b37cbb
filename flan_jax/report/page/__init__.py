"""`report.html`: the results, figures, rows and runs of a report in one file that works offline."""
