"""Archives in S3, Google Cloud Storage, Azure, the Hugging Face Hub or behind HTTP."""
