"""The service over HTTP: endpoints, problems, bodies within limits, roles, metrics and documentation."""
