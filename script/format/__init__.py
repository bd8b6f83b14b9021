"""The archive's two records and what surrounds them: values, manifest, golden cases, signatures."""
