"""The verb `report`: tables and figures from results.csv, and model cards."""
