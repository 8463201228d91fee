"""What credentials and identities look like in training logs: the rows that redaction works with.

Hold in mind: a needless token costs a little wording, a leaked key costs a rotation, so doubt masks. A pattern's group
(or the whole match) is what is masked; ``START`` in front of a key shape also accepts the ``\\n`` of an escaped text,
where a plain word boundary would be missed.
"""

from __future__ import annotations

START = r"(?:(?<![A-Za-z0-9])|(?<=\\[nrt]))"
_IS = r"""["']?\s*(?::=|=>|[:=])\s*["']?"""
_IS_OR_SPACE = r"""["']?(?:\s*(?::=|=>|[:=])\s*|\s+)["']?"""
_NAMES_A_SECRET = (
    r"(?:secret|api[_-]?key|access[_-]?key|secret[_-]?key|private[_-]?key|account[_-]?key|encryption[_-]?key|signing[_-]?key|auth[_-]?key"
    r"|(?:[a-z0-9]+[_-])?token|credentials?|_auth|_authtoken)"
)
_NAMES_A_PASSWORD = r"(?:password|passwd|passphrase|pwd|pgpassword|mysql_pwd)"

KEY_SHAPES: tuple[tuple[str, str], ...] = (
    ("nvidia_key", r"nvapi-[\w-]{16,}"),
    ("huggingface_token", r"(?:hf|api_org)_[A-Za-z0-9]{20,}"),
    ("wandb_key", r"wandb_v\d_[A-Za-z0-9_]{20,}"),
    ("openai_key", r"sk-(?:proj-|svcacct-|admin-|ant-|or-|lf-)?[A-Za-z0-9_-]{16,}"),
    ("github_token", r"(?:gh[pousr]_[A-Za-z0-9]{16,}|github_pat_\w{20,})"),
    ("gitlab_token", r"gl(?:pat|dt|rt|cbt|ptt|ft|soat|agent|oas)-[\w.-]{16,}"),
    ("slack_token", r"(?:xox[a-z]-[\w-]{8,}|xapp-\d-[\w-]{8,})"),
    ("aws_key_id", r"(?:A3T[A-Z0-9]|ABIA|ACCA|AGPA|AIDA|AKIA|AROA|ASIA)[A-Z0-9]{12,}\b"),
    ("google_key", r"(?:AIza[\w-]{30,}|ya29\.[\w.-]{16,}|GOCSPX-[\w-]{16,})"),
    ("stripe_key", r"(?:(?:sk|rk|pk)_(?:live|test)_[A-Za-z0-9]{8,}|whsec_[A-Za-z0-9]{16,})"),
    ("sendgrid_key", r"SG\.[\w-]{16,}\.[\w-]{16,}"),
    ("npm_token", r"npm_[A-Za-z0-9]{20,}"),
    ("pypi_token", r"pypi-[\w-]{20,}"),
    ("databricks_token", r"dapi[0-9a-f]{16,}(?:-\d)?\b"),
    ("digitalocean_token", r"do[opr]_v1_[0-9a-f]{16,}"),
    ("anyscale_token", r"(?:esecret|aph\d)_[A-Za-z0-9_]{12,}"),
    ("replicate_token", r"r8_[A-Za-z0-9]{20,}"),
    ("model_host_key", r"(?:gsk|xai|pplx|tgp_v1|csk|fw|lsv2_(?:pt|sk))[_-][A-Za-z0-9_]{20,}"),
    ("vault_token", r"(?:hv[sbr]|s)\.[A-Za-z0-9_-]{22,}"),
    ("grafana_token", r"gl(?:sa|c)_[A-Za-z0-9+/=_]{16,}"),
    ("docker_token", r"dckr_(?:pat|oat)_[\w-]{16,}"),
    ("telegram_token", r"\d{8,10}:AA[\w-]{30,}"),
    ("age_key", r"AGE-SECRET-KEY-1[A-Z0-9]{20,}"),
    ("jwt", r"eyJ[\w-]{6,}\.[\w=-]{6,}(?:\.[\w.+/=-]*)?"),
)
"""Keys with a published shape."""

KEYS = tuple((kind, START + shape) for kind, shape in KEY_SHAPES)
ANY_KEY = f"{START}(?:{'|'.join(shape for _, shape in KEY_SHAPES)})"
"""Matches wherever one of ``KEYS`` does."""

SECRETS: tuple[tuple[str, str], ...] = (
    ("slack_webhook", r"hooks\.slack\.com/(?:services|workflows|triggers)/([\w/+-]{8,})"),
    ("discord_webhook", r"discord(?:app)?\.com/api/webhooks/(\d+/[\w-]{16,})"),
    ("azure_key", r"(?i)\b(?:AccountKey|SharedAccessKey|SharedAccessSignature)=([^;\s\"']{8,})"),
    ("signed_url", r"(?i)[?&](?:sig|signature|x-amz-signature|x-amz-credential|x-amz-security-token|x-goog-signature)=([^&\s\"']{8,})"),
    # A whole private key on one line, its first line, and its body, whose lines reach us one by one.
    ("private_key", r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----|$)"),
    ("private_key", r"(?:^|[\s|\"'\]:])((?!/)(?=[A-Za-z0-9+/]*[+/A-Z])(?=[A-Za-z0-9+/]*\d)[A-Za-z0-9+/]{48,76}={0,2})\s*$"),
    ("url_password", r"(?i)\b[a-z][a-z0-9+.-]*://[^\s:/@\"'<>]*:([^\s\"'<>]+)@(?=[\w\[])"),
    ("url_token", r"(?i)\bhttps?://([^\s:/@\"'<>]{8,})@(?=[\w\[])"),
    (
        "authorization",
        rf"(?i)\b(?:proxy-)?authorization{_IS_OR_SPACE}"
        r"((?:(?:bearer|basic|token|apikey|digest|aws4-hmac-sha256)\s+)?[^\s\"',}]{6,}(?:,\s*\w+=[^\s,\"'}]+)*)",
    ),
    ("authorization", r"(?i)\b(?:bearer|apikey)\s+([\w.~+/=-]{12,})"),
    ("cookie", rf"(?i)\b(?:set-)?cookie{_IS}([^\"'\n]{{8,}})"),
    ("header", rf"(?i)\bx-(?:api-key|auth-token|vault-token|goog-api-key|amz-security-token){_IS_OR_SPACE}([^\s\"',}}]{{6,}})"),
    # A value after a word that announces a secret. Numbers, switches and paths are left alone: logs are full of "token".
    ("password", rf"(?i)(?:^|[^A-Za-z])(?:[\w.-]{{0,40}}[_.-])?{_NAMES_A_PASSWORD}(?:[_-][a-z]{{1,12}})?{_IS}([^\s\"',;}}{{)]{{3,}})"),
    ("password", rf"(?i)(?:^|\s)--?{_NAMES_A_PASSWORD}[= ]\s*[\"']?([^\s\"',;-][^\s\"',;]{{2,}})"),
    (
        "secret",
        rf"(?i)(?:^|[^A-Za-z])(?:[\w.-]{{0,60}}[_.-])?{_NAMES_A_SECRET}(?:[_-]id)?"
        r"""["']?\s*(?::=|=>|[:=])\s*(?:[rbf]?["'])?((?![A-Za-z_.]+\()[^\s"',;}{)\]]{8,})""",
    ),
    (
        "secret",
        r"(?i)(?:^|\s)--?(?:[\w-]*(?:api[_-]?key|secret|access[_-]?key|auth[_-]?token|access[_-]?token|hf[_-]?token)|token|key)[= ]\s*"
        r"[\"']?([^\s\"',;-][^\s\"',;]{7,})",
    ),
    ("wandb_key", r"(?<![0-9A-Za-z])[0-9a-f]{40}(?![0-9A-Za-z])"),
    ("aws_secret", r"(?<![A-Za-z0-9/+=_.-])(?=\S*[A-Z])(?=\S*[a-z])(?=\S*\d)[A-Za-z0-9/+]{40}(?![A-Za-z0-9/+=_.-])"),
)
"""Other credentials: addresses that hold one, words that announce a value, and values of a telling length."""

HARMLESS = (
    r"(?i)[+-]?[\d_.,]+(?:e[+-]?\d+)?[a-z%]{0,3}|none|null|true|false|\*+|x{3,}|<[^>]*>|\$\{?\w+\}?|\[\w+\]|/[\w./-]*|[a-z]+_\d+"
    r"|required|missing|invalid|expired|not|unset|empty"
)
"""Values after "token=" and the like that are no secret: numbers, switches, placeholders, variables, paths, our own tokens."""

IDENTITIES: tuple[tuple[str, str], ...] = (
    ("email", r"\b[\w.+-]+@[\w-]+(?:\.[\w-]+)*\.[A-Za-z][\w-]+"),
    ("user", r"(?:^|[\s\"'=(\[,:])/(?:home|Users|users|u|scratch|lustre/users|fsx/users)/([A-Za-z_][\w.-]{0,63})"),
    (
        "user",
        r"(?i)\b(?:(?:user(?:name)?|login|logname|owner|uname)\s*[:=]\s*|submitted by\s+|logged in as:?\s+)[\"']?([a-z_][\w.-]{1,63})",
    ),
    ("user", r"\b([a-z_][\w.-]{1,31})@(?=[A-Za-z][\w-]*[:\s~])"),
    ("ip", r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?!\w|\.\d)"),
    ("ip", r"(?<![\w:.])(?:[0-9A-Fa-f]{1,4}:){3,7}[0-9A-Fa-f]{1,4}(?![\w:])"),
    ("ip", r"(?<![\w:])(?:[0-9A-Fa-f]{1,4}:){1,6}:(?:[0-9A-Fa-f]{1,4}:?){1,6}(?![\w:])"),
    (
        "host",
        r"\b(?:[A-Za-z0-9-]+\.)+(?:com|net|org|edu|gov|mil|io|ai|cloud|internal|local|lan|corp|intra|cluster|svc|dev|de|fr|uk|ch|eu|jp|cn"
        r"|kr|in|il|ca|au|us)\b(?!\.?\w|\s*\()",
    ),
    (
        "host",
        r"(?i)\b(?!gpus?\d{1,2}\b)(?:ip-\d+-\d+-\d+-\d+|(?:[a-z]+[a-z0-9]*-)*[a-z]{0,8}?(?:node|host|gpu|worker|compute|login|head|dgx|hgx|server"
        r"|nid|slurm|pod|cn|gn|gh|h100|a100|h200|b200)s?-?(?:[a-z]+-)*\d{1,6}(?:-\d{1,6})*)\b",
    ),
    (
        "host",
        r"(?i)\b(?:host(?:name)?|node(?:name|list)?|master_addr|server|machine)\s*[:= ]\s*[\"']?(?!rank\b|process\b)"
        r"([A-Za-z](?=[\w-]*\d)[\w-]*(?:\[[\d,-]+\])?)",
    ),
    ("path", r"(?<![\w/.:])~?/(?:[^\s/\"'<>:,;()\[\]{}|=*?]+/)+[^\s/\"'<>:,;()\[\]{}|=*?]*|(?<![\w/.])/[A-Za-z][\w.-]{2,}(?![\w/])"),
)
"""Who and where: what strict mode replaces in addition."""
