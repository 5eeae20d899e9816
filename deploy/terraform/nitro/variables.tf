variable "name" {
  description = "Prefix of everything that is made."
  type        = string
  default     = "raypher"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{0,30}$", var.name))
    error_message = "Use a lower-case letter, then up to 30 letters, digits and dashes."
  }
}

variable "subnet_id" {
  description = "Subnet of the instance. What the host needs (the controller, KMS, package repositories) has to be reachable from it, by NAT or endpoints."
  type        = string
}

variable "instance_type" {
  description = "A Nitro instance with 4 or more vCPUs (2 or more on Graviton): the enclave takes whole cores. Not a bare-metal one: those have no enclaves."
  type        = string
  default     = "m6i.xlarge"

  validation {
    condition     = !strcontains(var.instance_type, "metal")
    error_message = "Bare-metal instances have no enclaves: see ../baremetal."
  }
}

variable "ami_id" {
  description = "Image of the host; empty: the newest Amazon Linux 2023. Name one: another image is another host."
  type        = string
  default     = ""
}

variable "architecture" {
  description = "x86_64 or arm64, where ami_id is empty. The enclave's image has to be of the same."
  type        = string
  default     = "x86_64"

  validation {
    condition     = contains(["x86_64", "arm64"], var.architecture)
    error_message = "Use x86_64 or arm64."
  }
}

variable "nitro_tpm" {
  description = "Refuse an image that was not registered with --boot-mode uefi --tpm-support v2.0. Amazon's own images may not be."
  type        = bool
  default     = false
}

variable "enclave_cpus" {
  description = "vCPUs of the enclave: whole cores, so an even number where threads are on."
  type        = number
  default     = 2
}

variable "enclave_memory_mib" {
  description = "Memory of the enclave in MiB."
  type        = number
  default     = 1024
}

variable "enclave_cid" {
  description = "vsock context id of the enclave."
  type        = number
  default     = 16
}

variable "release" {
  description = "An archive (tar.gz) with Raypher's checkout as `make build` leaves it, the image and its measurements, in a bucket that the instance may read: see deploy/README.md. Its hash stands here, so that a bucket decides nothing."
  type = object({
    bucket = string
    key    = string
    sha256 = string
  })

  validation {
    condition     = can(regex("^[0-9a-f]{64}$", var.release.sha256))
    error_message = "sha256 is 64 lower-case hexadecimal digits, as sha256sum prints them."
  }
}

variable "images" {
  description = "Which enclaves may decrypt: image (PCR0 to PCR2, `raypher eif measure`) and start configuration (PCR16, see docs/nitro.md). Empty: none, which is right until the host's ibev.conf is written."
  type = list(object({
    pcr0  = string
    pcr1  = string
    pcr2  = string
    pcr16 = string
  }))
  default = []

  validation {
    condition     = alltrue([for i in var.images : alltrue([for v in values(i) : can(regex("^[0-9a-f]{96}$", v)) && v != join("", [for n in range(96) : "0"])])])
    error_message = "Each register is 96 lower-case hexadecimal digits, and not zero: zero is debug mode."
  }
}

variable "key_administrators" {
  description = "ARNs of those who manage the KMS key and encrypt with it. None of them may decrypt; whoever may change the key's policy can give himself that right, so choose few."
  type        = list(string)

  validation {
    condition     = length(var.key_administrators) > 0
    error_message = "A key without administrators cannot be managed again."
  }
}

variable "egress_cidrs" {
  description = "Where the host may connect to, by HTTPS."
  type        = list(string)
  default     = ["0.0.0.0/0"]
}

variable "tags" {
  description = "Tags of everything that is made."
  type        = map(string)
  default     = {}
}
