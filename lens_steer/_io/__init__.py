"""Files that are written completely or not at all, rows of resumable runs, tables, and progress displays.

What other rooms use of it:

- ``atomic``: ``whole_folder``, ``whole_file``, ``check_writable``
- ``jsonl``: ``read_lines``
- ``progress``: ``counting``, ``duration``, ``stepping``, ``Counter``, ``interactive``
- ``rowstore``: ``Row``, ``RowStore``, ``Rows``
- ``shards``: ``Shard``, ``ShardDone``, ``sharded``, ``join_shards``, ``files_of``
- ``tables``: ``markdown``, ``csv_records``, ``escaped``, ``tabular``, ``csv_text``, ``from_markdown``, ``longtable``
- ``tensors``: ``TensorFolder``, ``all_finite``
"""
