"""The JSON schema describes the files that are written."""

import json

from diffusionpose.formats import poses_json_schema
from tests.formats.helpers import GOLDEN_JSON


def test_json_schema_names_every_key_of_the_file():
    schema = poses_json_schema()
    golden = json.loads(GOLDEN_JSON)
    json.dumps(schema, allow_nan=False)
    assert set(schema["required"]) == set(golden)
    for record, found in [
        ("VideoRecord", golden["video"]),
        ("VerdictRecord", golden["verdict"]),
        ("IssueRecord", golden["verdict"]["issues"][0]),
        ("SkeletonRecord", golden["skeleton"]),
        ("FrameRecord", golden["frames"][0]),
        ("PersonRecord", golden["frames"][0]["people"][0]),
    ]:
        # Files from before the fingerprint existed can be read.
        assert set(schema["$defs"][record]["required"]) == set(found) - {"fingerprint"}, record
    assert schema["properties"]["schema_version"]["const"] == 1
