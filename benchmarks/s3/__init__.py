"""ftpsd with homes in an object store, beside a local home and beside rclone."""
