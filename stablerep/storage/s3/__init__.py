"""A store in an S3 bucket, through the `minio` client."""
