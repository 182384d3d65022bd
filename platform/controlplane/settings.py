"""All settings, read from the environment (env.py). docs/settings.md lists them."""

from datetime import timedelta
from pathlib import Path

from controlplane import env

ROOT = Path(__file__).resolve().parents[2]
VAR = Path(env.text("STOA_VAR_DIR", str(ROOT / "var")))

# --- Secrets ----------------------------------------------------------------------
SECRET_KEY = env.text("STOA_SECRET_KEY")
# Keys API-key hashes; the gateway holds the same.
KEY_PEPPER = env.text("STOA_KEY_PEPPER").encode()
# 32 bytes, base64url: seals CA keys, personal values of audit events, stored replies.
MASTER_KEY = env.text("STOA_MASTER_KEY")
# ID=KEY of the same form, the newest first: seal projects' secrets in place of the master key.
SECRETS_KEYS = env.keys("STOA_SECRETS_KEYS")

DEBUG = False
ALLOWED_HOSTS = env.words("STOA_ALLOWED_HOSTS", "localhost,127.0.0.1,[::1]")
CSRF_TRUSTED_ORIGINS = env.words("STOA_CSRF_TRUSTED_ORIGINS")
# Behind TLS (production): cookies over https alone, and http is sent away.
TLS = env.flag("STOA_TLS", default=False)

# --- What the house is made of ------------------------------------------------------
INSTALLED_APPS = [
    "django.contrib.auth",  # its AnonymousUser is a model: without the app no request is served
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django.contrib.postgres",
    "csp",
    "django_htmx",
    "rest_framework",
    "drf_spectacular",
    "compliance",
    "billing",
    "controlplane.tenancy",
    "controlplane.fleet",
    "controlplane.endpoints",
    "controlplane.batches",
    "controlplane.switching",
    "controlplane.residency",
    "controlplane.api",
    "workers",
    "frontend",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "controlplane.api.request_id.RequestIdMiddleware",
    "csp.middleware.CSPMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
]

ROOT_URLCONF = "controlplane.urls"
ASGI_APPLICATION = "controlplane.asgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    }
]

# --- Stores -------------------------------------------------------------------------
DATABASES = {"default": env.database(env.text("DATABASE_URL"))}
DATABASES["default"]["OPTIONS"]["pool"] = {  # type: ignore[index]
    "min_size": 1,
    "max_size": env.integer("STOA_DATABASE_POOL", 16),
    "timeout": 10,
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
BROKER_URL = env.text("BROKER_URL")
QUEUE = env.text("STOA_QUEUE", "stoa")  # of Celery, where installations share a broker

# --- People -------------------------------------------------------------------------
AUTH_USER_MODEL = "tenancy.User"
AUTHENTICATION_BACKENDS = ["django.contrib.auth.backends.ModelBackend"]
PASSWORD_HASHERS = ["django.contrib.auth.hashers.Argon2PasswordHasher"]
AUTH_PASSWORD_VALIDATORS = [
    {
        "NAME": "django.contrib.auth.password_validation.MinimumLengthValidator",
        "OPTIONS": {"min_length": 12},
    },
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
LOGIN_URL = "frontend:sign-in"
LOGIN_REDIRECT_URL = "frontend:endpoints"
SESSION_COOKIE_AGE = int(timedelta(hours=12).total_seconds())
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = SECURE_SSL_REDIRECT = TLS
SECURE_HSTS_SECONDS = 31_536_000 if TLS else 0
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if TLS else None
X_FRAME_OPTIONS = "DENY"

# Nothing from elsewhere, nothing inline.
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": ["'self'"],
        "base-uri": ["'none'"],
        "form-action": ["'self'"],
        "frame-ancestors": ["'none'"],
        "object-src": ["'none'"],
    }
}

# --- Words and files ----------------------------------------------------------------
LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_TZ = True
USE_I18N = False
STATIC_URL = "static/"
WHITENOISE_USE_FINDERS = True  # straight from the rooms: no step that collects them
DATA_UPLOAD_MAX_MEMORY_SIZE = 1_048_576

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "controlplane.api.authentication.ApiKeyAuthentication",
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.JSONParser"],
    "DEFAULT_PAGINATION_CLASS": "controlplane.api.pagination.CursorPagination",
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "controlplane.api.problems.handler",
    "UNAUTHENTICATED_USER": None,
    "COERCE_DECIMAL_TO_STRING": True,
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Stoa management API",
    "VERSION": "1",
    "SERVE_INCLUDE_SCHEMA": False,
    "SCHEMA_PATH_PREFIX": "/api/v1",
}

# --- The fleet: times in seconds. Tests scale them all at once ------------------------
TIME_SCALE = env.seconds("STOA_TIME_SCALE", 1.0)  # 0.05 makes every lease 20 times shorter
NODE_REPORT_EVERY_S = env.seconds("STOA_NODE_REPORT_EVERY_S", 5) * TIME_SCALE
NODE_LEASE_S = env.seconds("STOA_NODE_LEASE_S", 20) * TIME_SCALE
NODE_LOST_AFTER_S = env.seconds("STOA_NODE_LOST_AFTER_S", 300) * TIME_SCALE
NODE_CERTIFICATE_S = env.seconds("STOA_NODE_CERTIFICATE_S", 86_400)
# Where the agents' door listens, and where nodes reach it: stands in the join command.
AGENTS_HOST = env.text("STOA_AGENTS_HOST", "127.0.0.1")
AGENTS_PORT = env.integer("STOA_AGENTS_PORT", 8443)
AGENTS_URL = env.text("STOA_AGENTS_URL", f"https://{AGENTS_HOST}:{AGENTS_PORT}")
# Where clients reach the gateway: stands in the snippets that the console shows.
GATEWAY_URL = env.text(
    "STOA_GATEWAY_URL", f"http://127.0.0.1:{env.integer('STOA_GATEWAY_PORT', 8080)}"
)
SWEEP_EVERY_S = env.seconds("STOA_SWEEP_EVERY_S", 2)
METER_EVERY_S = env.seconds("STOA_METER_EVERY_S", 2)
START_TIMEOUT_S = env.seconds("STOA_START_TIMEOUT_S", 600)
START_TARGET_S = env.seconds("STOA_START_TARGET_S", 18)
# Invoices: until so long after the month a draft is drawn anew; the Commission's service for VAT.
BILLING_GRACE_H = env.integer("STOA_BILLING_GRACE_H", 72)
VIES_URL = env.text("STOA_VIES_URL", "https://ec.europa.eu/taxation_customs/vies/rest-api")
# How long nodes' signed records are kept; the database keeps thirteen months whatever is set.
METER_EVIDENCE_DAYS = env.integer("STOA_METER_EVIDENCE_DAYS", 731)
RUNS_KEPT_S = env.seconds("STOA_RUNS_KEPT_S", 90 * 86_400)
RESERVE_S = env.seconds("STOA_RESERVE_S", 300)
DRAIN_S = env.seconds("STOA_DRAIN_S", 300)
RETRY_BASE_S = env.seconds("STOA_RETRY_BASE_S", 10) * TIME_SCALE
RETRY_MAX_S = env.seconds("STOA_RETRY_MAX_S", 600) * TIME_SCALE

# --- Files and batches: sizes in bytes --------------------------------------------------
FILE_MAX_BYTES = env.integer("STOA_FILE_MAX_BYTES", 200 << 20)
FILES_PROJECT_BYTES = env.integer("STOA_FILES_PROJECT_BYTES", 10 << 30)
FILES_KEPT_S = env.seconds("STOA_FILES_KEPT_S", 30 * 86_400)
BATCH_MAX_REQUESTS = env.integer("STOA_BATCH_MAX_REQUESTS", 50_000)
BATCH_LINE_MAX_BYTES = env.integer("STOA_BATCH_LINE_MAX_BYTES", 10 << 20)
BATCH_WINDOW_S = env.seconds("STOA_BATCH_WINDOW_S", 86_400)
BATCH_LEASE_S = env.seconds("STOA_BATCH_LEASE_S", 30) * TIME_SCALE
BATCH_CONCURRENCY = env.integer("STOA_BATCH_CONCURRENCY", 32)
BATCH_CANARY_S = env.seconds("STOA_BATCH_CANARY_S", 60)
# Where runners reach a gateway.
BATCH_GATEWAY_URL = env.text("STOA_BATCH_GATEWAY_URL", GATEWAY_URL)
BATCH_REGION = env.text("STOA_BATCH_REGION", "")

# --- Stripe: off without a key (docs/stripe.md) ----------------------------------------
STRIPE_API_KEY = env.text("STOA_STRIPE_API_KEY", "")
STRIPE_WEBHOOK_SECRETS = env.secrets("STOA_STRIPE_WEBHOOK_SECRETS")
STRIPE_API_BASE = env.text("STOA_STRIPE_API_BASE", "")  # empty: Stripe's own
STRIPE_TIMEOUT_S = env.seconds("STOA_STRIPE_TIMEOUT_S", 30)
STRIPE_ENTITY = env.text("STOA_STRIPE_ENTITY", "")  # whose account it is; empty: the only one
STRIPE_NOTICE_DAYS = env.integer("STOA_STRIPE_NOTICE_DAYS", 14)
STRIPE_METERS = env.flag("STOA_STRIPE_METERS", default=False)

# --- The log and its signer (docs/evidence.md) -------------------------------------------
# Names this installation in its checkpoints: never changed, since logs are known by it.
LOG_ORIGIN = env.text("STOA_LOG_ORIGIN", ALLOWED_HOSTS[0] if ALLOWED_HOSTS else "localhost")
# Hosts of the operator's own network that a log may be sent to; others must be of the internet.
LOG_INNER_HOSTS = env.words("STOA_LOG_INNER_HOSTS")
# Mail, for heads of logs: off without a host.
EMAIL_HOST = env.text("STOA_SMTP_HOST", "")
EMAIL_PORT = env.integer("STOA_SMTP_PORT", 587)
EMAIL_HOST_USER = env.text("STOA_SMTP_USER", "")
EMAIL_HOST_PASSWORD = env.text("STOA_SMTP_PASSWORD", "")
EMAIL_USE_TLS = env.flag("STOA_SMTP_TLS", default=True)
EMAIL_TIMEOUT = 10
DEFAULT_FROM_EMAIL = env.text("STOA_SMTP_FROM", f"stoa@{LOG_ORIGIN}")
SIGNER_SOCKET = env.text("STOA_SIGNER_SOCKET", str(VAR / "signer" / "socket"))

# --- Data keys and who wraps them (docs/keys.md) -------------------------------------------
KMS = env.text("STOA_KMS", "file")
KMS_FILE = env.text("STOA_KMS_PATH", str(VAR / "secrets" / "kek.json"))
KMS_PASSPHRASE = env.text("STOA_KMS_PASSPHRASE", "")
KMS_URL = env.text("STOA_KMS_URL", "")
KMS_TOKEN_FILE = env.text("STOA_KMS_TOKEN_FILE", "")
KMS_NAME = env.text("STOA_KMS_NAME", "stoa")
KMS_MOUNT = env.text("STOA_KMS_MOUNT", "transit")
KMS_CA = env.text("STOA_KMS_CA", "")

# --- Where data is kept (docs/residency.md) ----------------------------------------------
# What the operator states of places: NAME=COUNTRY/OPERATOR/PARENT by commas.
LOCATIONS = env.words("STOA_LOCATIONS")

# --- Where models come from ------------------------------------------------------------
HUB_URL = env.text("STOA_HUB_URL", "https://huggingface.co")
# The operator's own: the same protocol, or file:///tree on the nodes; empty: there is none.
MIRROR_URL = env.text("STOA_MIRROR_URL", "")
MIRROR_TOKEN = env.text("STOA_MIRROR_TOKEN", "")
# Services that nodes may be sent to; a tenant's address alone would open the inner network.
S3_ENDPOINTS = env.words("STOA_S3_ENDPOINTS")
# Registries that nodes may pull images from, as `host` or `host:port`.
IMAGE_REGISTRIES = env.words("STOA_IMAGE_REGISTRIES")
# Weights that projects bring; every web process sees the same folder.
UPLOADS_DIR = Path(env.text("STOA_UPLOADS_DIR", str(VAR / "uploads")))
UPLOADS_PROJECT_BYTES = env.integer("STOA_UPLOADS_PROJECT_BYTES", 1 << 40)
UPLOADS_UNFINISHED_S = env.seconds("STOA_UPLOADS_UNFINISHED_S", 7 * 86_400)

# The database roles that `grant_roles` provides for (compliance.grants).
RECIPES_DIR = env.text("STOA_RECIPES_DIR", "")  # the operator's model recipes, before ours
APP_ROLE = env.text("STOA_APP_ROLE", "stoa_app")
GATEWAY_ROLE = env.text("STOA_GATEWAY_ROLE", "stoa_gateway")

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["stderr"], "level": env.text("STOA_LOG_LEVEL", "INFO")},
}
