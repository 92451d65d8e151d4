"""PUTs a body with signed headers: signed.py URL BODY NAME:VALUE... Not with curl, some versions of which sign two
headers in the wrong order when the name of one begins with that of the other."""
import datetime, hashlib, hmac, os, sys, urllib.parse, urllib.request

url, body, *lines = sys.argv[1:]
at = urllib.parse.urlsplit(url)
now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%SZ")
region = os.environ["AWS_REGION"]
headers = dict(line.split(":", 1) for line in lines)
headers |= {"host": at.netloc, "x-amz-date": now, "x-amz-content-sha256": "UNSIGNED-PAYLOAD"}
names = sorted(headers)
canonical = ["PUT", at.path, at.query, *(f"{name}:{headers[name]}" for name in names), ""]
canonical = "\n".join([*canonical, ";".join(names), "UNSIGNED-PAYLOAD"])
scope = f"{now[:8]}/{region}/s3/aws4_request"
signed = "\n".join(["AWS4-HMAC-SHA256", now, scope, hashlib.sha256(canonical.encode()).hexdigest()])
key = ("AWS4" + os.environ["AWS_SECRET_ACCESS_KEY"]).encode()
for part in [*scope.split("/"), signed]:
    key = hmac.new(key, part.encode(), hashlib.sha256).digest()
headers["authorization"] = (
    f"AWS4-HMAC-SHA256 Credential={os.environ['AWS_ACCESS_KEY_ID']}/{scope}, "
    f"SignedHeaders={';'.join(names)}, Signature={key.hex()}"
)
urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
    urllib.request.Request(url, body.encode(), headers, method="PUT")
)
