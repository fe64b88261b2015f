"""From files on disk to a batch of tensors: the schema, data sets, processor and collator. Import the modules."""
