# /etc/lhsmd/lhsm-plugin-object: the object mover. Its mode must be 0600.

num_threads = 32

# Amazon, with the machine's role.
archive "offsite" {
  id            = 10
  url           = "s3://centre-archive/data"
  region        = "eu-central-1"
  storage_class = "STANDARD_IA"
  compression   = "auto"

  encryption {
    type = "kms"
  }
}

# A store of the house that speaks S3.
archive "ceph" {
  id       = 11
  url      = "s3://hsm"
  endpoint = "https://objects.example.org"
  ca_file  = "/etc/ssl/house-ca.pem"

  credentials {
    access_key_id     = "AKIDEXAMPLE"
    secret_access_key = "wJalrXUtnFEMI"
  }

  limits {
    requests  = 128
    part_size = "32MiB"
  }
}

archive "azure" {
  id      = 12
  url     = "az://archive/data"
  layout  = "path" # for people and other tools to read
  account = "centre"

  credentials {
    sas_token = "sv=2024-11-04&ss=b&sig=example"
  }
}
