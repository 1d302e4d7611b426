"""Images and tables: sources, preprocessing, duplicates, days and splits, corruption, data checks, replay sampling."""
