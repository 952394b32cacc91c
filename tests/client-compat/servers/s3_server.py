"""A store with S3's interface on loopback (moto), which checks signatures and rights; run by `store.py` in an environment
of its own.

Prints `ready` with its address and an access key, as JSON; then answers each line of standard input, `{"call": ..., ...}`,
with one line of what the store says. What tests put there and look up goes this way, past the server under test.
"""

import base64
import json
import os
import sys

# Until `main` says otherwise, everybody may do everything.
os.environ.setdefault("AWS_DEFAULT_REGION", "us-east-1")

import boto3
from moto.core import authorization
from moto.s3.exceptions import BucketAccessDeniedError
from moto.moto_server.threaded_moto_server import ThreadedMotoServer

EVERYTHING = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}


PUBLIC = "public"


def let_the_public_in():
    """Without a signature one bucket can be read, and nothing else; the store itself knows no such thing."""
    checked = authorization.ActionAuthenticatorMixin._authenticate_and_authorize_s3_action

    def check(self, bucket_name=None, key_name=None):
        if "Authorization" in self.headers:
            return checked(self, bucket_name, key_name)
        if bucket_name != PUBLIC or self.method not in ("GET", "HEAD"):
            raise BucketAccessDeniedError(bucket=bucket_name)

    authorization.ActionAuthenticatorMixin._authenticate_and_authorize_s3_action = check


def main():
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    iam = boto3.client("iam", endpoint_url=endpoint, aws_access_key_id="any", aws_secret_access_key="any")
    iam.create_user(UserName="tester")
    iam.put_user_policy(UserName="tester", PolicyName="all", PolicyDocument=json.dumps(EVERYTHING))
    key = iam.create_access_key(UserName="tester")["AccessKey"]
    let_the_public_in()
    authorization.settings.INITIAL_NO_AUTH_ACTION_COUNT = 0
    keys = {"aws_access_key_id": key["AccessKeyId"], "aws_secret_access_key": key["SecretAccessKey"]}
    s3 = boto3.client("s3", endpoint_url=endpoint, **keys)
    print(json.dumps({"endpoint": endpoint, **keys}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            said = answer(s3, asked.pop("call"), asked)
        except Exception as error:
            said = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(said), flush=True)
    server.stop()


def answer(s3, call, asked):
    if "Body" in asked:
        asked["Body"] = base64.b64decode(asked["Body"])
    said = getattr(s3, call)(**asked)
    said.pop("ResponseMetadata", None)
    if "Body" in said:
        said["Body"] = base64.b64encode(said["Body"].read()).decode()
    return json.loads(json.dumps(said, default=str))


if __name__ == "__main__":
    main()
