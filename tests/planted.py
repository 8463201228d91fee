"""Made-up secrets of the kinds that end up in training logs, in lines as programs print them. None of them ever worked."""

from __future__ import annotations

import base64
import json
import random
import string
from collections.abc import Callable

ALNUM = string.ascii_letters + string.digits
HEX = "0123456789abcdef"


def _mixed(rng: random.Random, n: int, alphabet: str = ALNUM) -> str:
    """Random characters with all classes, as issuers give them."""
    return "".join(rng.choices(alphabet, k=n - 3)) + "aZ7"


def _jwt(rng: random.Random) -> str:
    def part(value: dict[str, object]) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    return f"{part({'alg': 'HS256', 'typ': 'JWT'})}.{part({'sub': _mixed(rng, 12)})}.{_mixed(rng, 43, ALNUM + '_-')}"


def _hex(rng: random.Random, n: int) -> str:
    return "".join(rng.choices(HEX, k=n))


def _upper(rng: random.Random, n: int) -> str:
    return "".join(rng.choices(string.ascii_uppercase + "234567", k=n))


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


Planted = tuple[str, list[str]]


def _in(template: str, *secrets: str) -> Planted:
    return template.format(*secrets), list(secrets)


PLANTED: dict[str, Callable[[random.Random], Planted]] = {
    "nvidia": lambda r: _in("calling NIM with key {0} failed: 403", "nvapi-" + _mixed(r, 64, ALNUM + "-_")),
    "ngc legacy": lambda r: _in("ngc config: apikey = {0}", _mixed(r, 84)),
    "ngc bare": lambda r: _in("docker login nvcr.io -u $oauthtoken -p {0}", _mixed(r, 84)),
    "hugging face": lambda r: _in("huggingface_hub.errors: token {0} is not valid", "hf_" + _mixed(r, 34, string.ascii_letters)),
    "wandb": lambda r: _in("wandb: appending key {0} to your netrc file", _hex(r, 40)),
    "wandb url": lambda r: _in("View project at https://wandb.example.org/t/p?apiKey={0}", _hex(r, 40)),
    "aws id": lambda r: _in("botocore.exceptions.ClientError: {0} is not authorized", "AKIA" + _upper(r, 16)),
    "aws secret": lambda r: _in("export AWS_SECRET_ACCESS_KEY={0}", _mixed(r, 40, ALNUM + "/+")),
    "aws session": lambda r: _in("'aws_session_token': '{0}'", _mixed(r, 200, ALNUM + "/+")),
    "s3 signed": lambda r: _in(
        "GET https://b.s3/k?X-Amz-Credential={1}%2F20260101&X-Amz-Signature={0}",
        _hex(r, 64),
        "AKIA" + _upper(r, 16),
    ),
    "github": lambda r: _in("fatal: could not read from https://x:{0}@github.com/o/r.git", "ghp_" + _mixed(r, 36)),
    "github fine": lambda r: _in("GH_TOKEN {0} rejected", "github_pat_" + _mixed(r, 22) + "_" + _mixed(r, 59)),
    "gitlab": lambda r: _in("remote: HTTP Basic: access denied for {0}", "glpat-" + _mixed(r, 20)),
    "slack": lambda r: _in("slack_sdk: invalid_auth with {0}", f"xoxb-{r.randrange(10**11)}-{r.randrange(10**12)}-{_mixed(r, 24)}"),
    "slack hook": lambda r: _in(
        "POST https://hooks.slack.com/services/{0} 404", f"T{r.randrange(10**9)}/B{r.randrange(10**9)}/{_mixed(r, 24)}"
    ),
    "jwt": lambda r: _in("got 401 for {0}", _jwt(r)),
    "bearer": lambda r: _in("headers={{'Authorization': 'Bearer {0}'}}", _mixed(r, 32)),
    "basic auth": lambda r: _in("Authorization: Basic {0}", _base64("svc:" + _mixed(r, 12))),
    "private key": lambda r: _in(
        '"private_key": "-----BEGIN PRIVATE KEY-----\\n{0}\\n-----END PRIVATE KEY-----\\n"', _mixed(r, 64, ALNUM + "+/")
    ),
    "openssh key": lambda r: _in("{0}", "b3BlbnNzaC1rZXktdjEA" + _mixed(r, 50, ALNUM + "+/")),
    "url password": lambda r: _in("redis.exceptions: cannot connect to redis://:{0}@cache:6379/0", "p!" + _mixed(r, 10)),
    "url user password": lambda r: _in("sqlalchemy: postgresql+psycopg://mlflow:{0}@db.internal:5432/mlflow", _mixed(r, 12) + "#1"),
    "proxy": lambda r: _in("https_proxy=http://svc:{0}@proxy.corp:3128", _mixed(r, 9)),
    "openai": lambda r: _in("openai.AuthenticationError: Incorrect API key provided: {0}", "sk-proj-" + _mixed(r, 48, ALNUM + "-_")),
    "anthropic": lambda r: _in("x-api-key: {0}", "sk-ant-api03-" + _mixed(r, 60, ALNUM + "-_")),
    "google": lambda r: _in("?key={0} quota exceeded", "AIza" + _mixed(r, 35, ALNUM + "_-")),
    "azure": lambda r: _in(
        "DefaultEndpointsProtocol=https;AccountName=a;AccountKey={0};EndpointSuffix=core.windows.net", _mixed(r, 86, ALNUM + "+/") + "=="
    ),
    "azure sas": lambda r: _in("https://a.blob.core.windows.net/c/b?sv=2024&sig={0}&se=2026", _mixed(r, 43, ALNUM) + "%3D"),
    "password": lambda r: _in("db_password: '{0}'", "S3" + _mixed(r, 9)),
    "password option": lambda r: _in("+ mysql --password {0} -e 'select 1'", "S3" + _mixed(r, 9)),
    "generic key": lambda r: _in("COMET_API_KEY={0}", _mixed(r, 25)),
    "generic token": lambda r: _in("env: HF_TOKEN = '{0}'", _mixed(r, 24)),
    "stripe": lambda r: _in("using {0}", "sk_live_" + _mixed(r, 24)),
    "sendgrid": lambda r: _in("mail failed with {0}", f"SG.{_mixed(r, 22)}.{_mixed(r, 43)}"),
    "npm": lambda r: _in("//registry.example.org/:_authToken={0}", "npm_" + _mixed(r, 36)),
    "pypi": lambda r: _in("pip: https://__token__:{0}@pypi.example.org/simple", "pypi-AgEI" + _mixed(r, 60)),
    "databricks": lambda r: _in("DATABRICKS_TOKEN {0}", "dapi" + _hex(r, 32)),
    "vault": lambda r: _in("vault: permission denied ({0})", "hvs." + _mixed(r, 24)),
    "docker config": lambda r: _in('{{"auths": {{"nvcr.io": {{"auth": "{0}"}}}}}}', _base64("$oauthtoken:" + _mixed(r, 40))),
    "cookie": lambda r: _in("Cookie: session={0}; Path=/", _mixed(r, 32)),
}
"""Kind -> a line and the secrets in it, new ones for every call."""


def plant(kind: str, rng: random.Random) -> Planted:
    """Return a log line of a kind and the secrets in it."""
    return PLANTED[kind](rng)
