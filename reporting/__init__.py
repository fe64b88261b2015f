"""What a run leaves to read: pictures of its curves and recalls, a report in Markdown, a record of the machine."""
