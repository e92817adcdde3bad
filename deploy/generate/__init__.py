"""What deploy/k8s holds that is made from declarations: topics, users, dashboards, alert rules."""
