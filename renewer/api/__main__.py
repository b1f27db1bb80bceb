"""``python -m renewer.api`` writes the OpenAPI document to standard output."""

import json
import sys

from renewer.api.server import openapi_document

sys.stdout.write(json.dumps(openapi_document(), indent=2, sort_keys=True, ensure_ascii=False) + "\n")
