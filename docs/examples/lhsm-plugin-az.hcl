# /etc/lhsmd/lhsm-plugin-az: archives of Lemur's in Azure Blob Storage, as they are. Its mode must be 0600.

num_threads        = 32
az_storage_account = "centre"
az_storage_key     = "a2V5IG9mIHRoZSBhY2NvdW50"

archive "scratch" {
  id        = 30
  container = "lemur"
  prefix    = "scratch"
}
