"""The papers' tables as data: which runs make which figure; launched, collected and reported.

A table is a YAML file in ``definitions``: its rows name recipes and flags, its columns metrics of
``result.json``, and both the published figures. `read.load_table` reads and checks one,
`runner.run_all` makes what is missing, `report.write_report` sets ours beside the published.
"""
