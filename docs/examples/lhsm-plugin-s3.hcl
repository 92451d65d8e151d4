# /etc/lhsmd/lhsm-plugin-s3: archives of Lemur's in S3, as they are. Its mode must be 0600.

num_threads      = 32
region           = "eu-central-1"
upload_part_size = 16 # MiB

# Amazon, with the machine's role.
archive "offsite" {
  id     = 20
  bucket = "centre-lemur"
  prefix = "hsm"
}

# A store of the house that speaks S3.
archive "ceph" {
  id                    = 21
  bucket                = "hsm"
  endpoint              = "https://objects.example.org"
  aws_access_key_id     = "AKIDEXAMPLE"
  aws_secret_access_key = "wJalrXUtnFEMI"
}
