"""Rows of tables: Parquet, Arrow IPC, JSON lines, CSV. All modules here need pyarrow, except `table_source`."""
