"""Constants that the dashboard and its OpenAPI description share."""

DASHBOARD_DATA = "/dashboard/data.json"
DEFAULT_HOURS = 24  # that the dashboard shows at first
CSRF_HEADER = "X-Dashboard"  # header that no form of another site can send
MAX_REASON_LENGTH = 1000  # characters of the reason of a promotion or rollback
