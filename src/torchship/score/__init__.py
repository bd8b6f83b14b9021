"""`torchship score`: runs a method of an archive over the rows of tables."""
