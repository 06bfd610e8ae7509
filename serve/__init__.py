"""The prediction service as this project deploys it; the library's part is `mlops_nb.serving`."""
