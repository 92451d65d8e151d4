# /etc/lhsmd/lhsm-plugin-posix: the POSIX mover. Its mode must be 0600.

num_threads = 4

# For every archive that does not say otherwise.
checksums {
  disabled                   = false
  disable_compare_on_restore = false
}

archive "tape-cache" {
  id          = 1
  root        = "/archive/tape-cache"
  compression = "auto"

  # So that others have something of this disk, too.
  bandwidth_limit = "800MB/s"
  max_in_flight   = 512
}

# Kept exactly as Lemur writes it, so that Lemur can restore from it.
archive "from-lemur" {
  id          = 2
  root        = "/archive/lemur"
  format      = "lemur"
  compression = "on"

  checksums {
    disable_compare_on_restore = true
  }
}
