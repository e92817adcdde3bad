"""The fields of custom resources that deploy/k8s uses, as closed JSON Schemas.

`kubernetes-validate` knows Kubernetes' own kinds only, and the published models of these accept
fields that they do not know, so a misspelt one would pass. From the references of Strimzi (v1),
KEDA 2.x and the Prometheus operator; a field that is used for the first time is added here.
"""

from typing import Final

Schema = dict[str, object]

_TEXT: Final[Schema] = {"type": "string", "minLength": 1}
_COUNT: Final[Schema] = {"type": "integer", "minimum": 1}
_DURATION: Final[Schema] = {"type": "string", "pattern": r"^(\d+(ms|s|m|h|d|w))+$"}
_TEXTS: Final[Schema] = {"type": "object", "additionalProperties": {"type": "string"}}


def _closed(properties: dict[str, Schema], *optional: str) -> Schema:
    return {
        "type": "object",
        "additionalProperties": False,
        "required": [name for name in properties if name not in optional],
        "properties": dict(properties),
    }


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items, "minItems": 1}


def _resource(kind: str, group: str, spec: Schema) -> Schema:
    metadata = _closed(
        {"name": _TEXT, "namespace": _TEXT, "labels": _TEXTS, "annotations": _TEXTS},
        "labels",
        "annotations",
    )
    return _closed(
        {
            "apiVersion": {"const": group},
            "kind": {"const": kind},
            "metadata": metadata,
            "spec": spec,
        }
    )


_ACL: Final = _closed(
    {
        "resource": _closed(
            {
                "type": {"enum": ["topic", "group", "cluster", "transactionalId"]},
                "name": _TEXT,
                "patternType": {"enum": ["literal", "prefix"]},
            },
            "name",
            "patternType",
        ),
        "operations": _list(
            {
                "enum": [
                    "Read",
                    "Write",
                    "Create",
                    "Delete",
                    "Alter",
                    "Describe",
                    "DescribeConfigs",
                    "AlterConfigs",
                    "IdempotentWrite",
                ]
            }
        ),
        "host": _TEXT,
        "type": {"enum": ["allow", "deny"]},
    },
    "host",
    "type",
)
_SCALE: Final = _closed(
    {
        "stabilizationWindowSeconds": {"type": "integer", "minimum": 0, "maximum": 3600},
        "policies": _list(
            _closed(
                {
                    "type": {"enum": ["Pods", "Percent"]},
                    "value": _COUNT,
                    "periodSeconds": {"type": "integer", "minimum": 1, "maximum": 1800},
                }
            )
        ),
    }
)
_RULE: Final[Schema] = {
    "oneOf": [
        _closed({"record": _TEXT, "expr": _TEXT}),
        _closed(
            {
                "alert": _TEXT,
                "expr": _TEXT,
                "for": _DURATION,
                "keep_firing_for": _DURATION,
                "labels": _TEXTS,
                "annotations": _TEXTS,
            },
            "for",
            "keep_firing_for",
        ),
    ]
}

SCHEMAS: Final[dict[tuple[str, str], Schema]] = {
    ("kafka.strimzi.io/v1", "KafkaTopic"): _resource(
        "KafkaTopic",
        "kafka.strimzi.io/v1",
        _closed({"partitions": _COUNT, "replicas": _COUNT, "config": _TEXTS}),
    ),
    ("kafka.strimzi.io/v1", "KafkaUser"): _resource(
        "KafkaUser",
        "kafka.strimzi.io/v1",
        _closed(
            {
                "authentication": _closed(
                    {"type": {"enum": ["tls", "tls-external", "scram-sha-512"]}}
                ),
                "authorization": _closed({"type": {"const": "simple"}, "acls": _list(_ACL)}),
            }
        ),
    ),
    ("keda.sh/v1alpha1", "ScaledObject"): _resource(
        "ScaledObject",
        "keda.sh/v1alpha1",
        _closed(
            {
                "scaleTargetRef": _closed({"apiVersion": _TEXT, "kind": _TEXT, "name": _TEXT}),
                "minReplicaCount": _COUNT,
                "maxReplicaCount": _COUNT,
                "pollingInterval": _COUNT,
                "advanced": _closed(
                    {
                        "horizontalPodAutoscalerConfig": _closed(
                            {"behavior": _closed({"scaleUp": _SCALE, "scaleDown": _SCALE})}
                        )
                    }
                ),
                "triggers": _list(
                    _closed(
                        {
                            "type": {"const": "kafka"},
                            "metadata": _closed(
                                {
                                    "bootstrapServers": _TEXT,
                                    "consumerGroup": _TEXT,
                                    "topic": _TEXT,
                                    "lagThreshold": _TEXT,
                                    "activationLagThreshold": _TEXT,
                                    "excludePersistentLag": {"enum": ["true", "false"]},
                                    "limitToPartitionsWithLag": {"enum": ["true", "false"]},
                                    "allowIdleConsumers": {"enum": ["true", "false"]},
                                    "offsetResetPolicy": {"enum": ["earliest", "latest"]},
                                    "tls": {"enum": ["enable", "disable"]},
                                },
                                "tls",
                            ),
                            "authenticationRef": _closed({"name": _TEXT}),
                        },
                        "authenticationRef",
                    )
                ),
            }
        ),
    ),
    ("monitoring.coreos.com/v1", "PodMonitor"): _resource(
        "PodMonitor",
        "monitoring.coreos.com/v1",
        _closed(
            {
                "jobLabel": _TEXT,
                "selector": _closed({"matchLabels": _TEXTS}),
                "podMetricsEndpoints": _list(
                    _closed(
                        {
                            "port": _TEXT,
                            "path": {"type": "string", "pattern": "^/"},
                            "interval": _DURATION,
                            "scrapeTimeout": _DURATION,
                        }
                    )
                ),
            }
        ),
    ),
    ("monitoring.coreos.com/v1", "PrometheusRule"): _resource(
        "PrometheusRule",
        "monitoring.coreos.com/v1",
        _closed({"groups": _list(_closed({"name": _TEXT, "rules": _list(_RULE)}))}),
    ),
}
