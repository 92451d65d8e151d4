# /etc/lhsmd/agent: the agent. Only client_device and enabled_plugins are required; the rest shows its default.

# A Lustre filesystem (mgsnid[,nid][:mgsnid]:/fsname), or the absolute path of a local one.
client_device = "10.0.2.15@tcp:/lustre"

# The agent mounts at <mount_root>/agent, each plugin at <mount_root>/<plugin>.
mount_root           = "/mnt/lhsmd"
client_mount_options = ["user_xattr"]

# Names under plugin_dir, builtins, or absolute paths.
enabled_plugins = ["posix"]
plugin_dir      = "/usr/libexec/lhsmd"

handler_count        = 8 # default: the number of CPUs
default_archive      = 1
mover_hang_timeout_s = 300
remove_grace_s       = 604800 # a week
keep_versions_s      = 0      # older versions go at once
state_dir            = "/var/lib/sifaka"

snapshots {
  enabled = false
}

transport {
  type       = "grpc"
  socket_dir = "/var/run/lhsmd"
}

admin {
  socket = "/var/run/lhsmd/admin.sock"
  group  = "hsmadmin" # default: none, root only
}

restore {
  timeout_s = 3600 # 0: a reader waits for ever
  # mode    = "range" # restore what is read, not the whole file: read docs/configuration.md before
}

retry {
  max_attempts = 0 # 0: without end
  max_delay_s  = 600
}

log {
  level = "info"
}

# Read, and without effect yet. Default: none. With a password in it, this file must have mode 0600.
influxdb {
  url      = "http://metrics.example:8086"
  db       = "hsm"
  user     = "hsm"
  password = "change me"
}
