# /etc/lhsmd/lhsm-plugin-command: archives behind programs. Its mode must be 0600.

# HPSS, a file for each file. Two transfers at a time.
archive "hpss" {
  id           = 10
  profile      = "hsi"
  root         = "/hpss/site/sifaka"
  staging      = "/var/spool/sifaka"
  max_commands = 2

  environment {
    HPSS_AUTH_METHOD  = "keytab"
    HPSS_PRINCIPAL    = "sifaka"
    HPSS_KEYTAB_PATH  = "/etc/hpss/sifaka.keytab"
  }
}

# A tape with LTFS: many files at a time, and nothing while it is not mounted.
archive "tape" {
  id          = 11
  profile     = "ltfs"
  root        = "/mnt/ltfs/sifaka"
  mount_point = "/mnt/ltfs"
  staging     = "/var/spool/sifaka"

  batch {
    max_files  = 500
    max_bytes  = "200GiB"
    max_wait_s = 60
  }
}

# Whatever rclone knows.
archive "cloud" {
  id           = 12
  profile      = "rclone"
  root         = "cold:bucket/prefix"
  max_commands = 8

  environment {
    RCLONE_CONFIG = "/etc/rclone.conf"
  }
}

# A program of the site's own.
archive "robot" {
  id      = 13
  archive = ["/opt/site/tape-put", "--name", "{id}", "--size", "{size}"]
  restore = ["/opt/site/tape-get", "--name", "{id}"]
  remove  = ["/opt/site/tape-rm", "--name", "{id}"]
  stat    = ["/opt/site/tape-size", "--name", "{id}"]

  timeout_s        = 43200
  output_timeout_s = 7200

  failures {
    temporary      = [75]
    permanent      = [1, 2]
    missing        = [3]
    temporary_text = ["drive busy", "no scratch tape"]
  }
}
