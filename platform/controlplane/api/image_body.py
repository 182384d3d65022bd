"""An image as the API has it, for what comes in and what goes out."""

from typing import Any

from rest_framework import serializers

from controlplane.endpoints import images


class ImageBody(serializers.Serializer[Any]):
    """What replicas are started from. What is absent is as shown here."""

    reference = serializers.CharField(
        max_length=images.MAX_REFERENCE,
        help_text="registry/repository:tag, or …@sha256:…; a tag is served by digest once it has "
        "served.",
    )
    command = serializers.ListField(
        child=serializers.CharField(allow_blank=True, trim_whitespace=False),
        default=list,
        help_text="In place of the image's own; empty: the image's.",
    )
    env = serializers.DictField(
        child=serializers.CharField(allow_blank=True, trim_whitespace=False), default=dict
    )
    secrets = serializers.DictField(
        child=serializers.CharField(),
        default=dict,
        help_text="Environment variable to the name of a secret of kind `env` of the project.",
    )
    registry_secret = serializers.CharField(
        default="",
        allow_blank=True,
        help_text="A secret of kind `registry` by name; empty: the default, if it is for this "
        "registry.",
    )
    port = serializers.IntegerField(default=8000, help_text="The image listens there.")
    readiness_path = serializers.CharField(default="/health", help_text="Answers 200 once ready.")
    openai = serializers.BooleanField(
        default=True, help_text="It speaks OpenAI's API; else its own paths are passed on."
    )
