"""What both wings need: configuration, files, stages."""
