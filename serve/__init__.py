"""The prediction service: Flask is imported here and nowhere else, and nothing imports this package."""
