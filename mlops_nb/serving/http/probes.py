"""Health routes: a load balancer asks them whether a service can predict, and 503 is an answer, not an error."""

# of the server, open to anybody
SERVER_PROBES = frozenset({"/health", "/health/live", "/health/ready", "/ping", "/v2/health/live", "/v2/health/ready"})
# of one model, which need a key as its predictions do
MODEL_PROBES = frozenset(
    {
        "/models/<name>/health/ready",
        "/v1/models/<name>",
        "/v2/models/<name>/ready",
        "/v2/models/<name>/versions/<version>/ready",
    }
)
HEALTH_ROUTES = SERVER_PROBES | MODEL_PROBES
