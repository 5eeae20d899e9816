# Raypher on a machine that exists: hardware of your own with a TPM 2.0, or a rented server. It uses no provider: what it does, it does by SSH.
# EC2's bare-metal instances are not what it is for: NitroTPM belongs to virtual instances, and a host there has tier nitro.

terraform {
  required_version = ">= 1.5"
}

variable "host" {
  description = "Name or address of the machine."
  type        = string

  validation {
    condition     = can(regex("^[a-zA-Z0-9.:-]{1,253}$", var.host))
    error_message = "Use a name or an address."
  }
}

variable "host_key" {
  description = "The machine's public SSH key (ssh-ed25519 AAAA...): without it anybody on the way could be the machine."
  type        = string

  validation {
    condition     = can(regex("^(ssh-ed25519|ecdsa-sha2-nistp256) [A-Za-z0-9+/=]+$", var.host_key))
    error_message = "Use a line of ssh-keyscan that you compared: ssh-ed25519 AAAA... or ecdsa-sha2-nistp256 AAAA..., without the name."
  }
}

variable "user" {
  description = "Who comes in, by ssh-agent; root, as everything here needs it."
  type        = string
  default     = "root"
}

variable "archive" {
  description = "Archive (tar.gz) with Raypher's checkout as `make build` leaves it."
  type        = string
}

variable "archive_sha256" {
  description = "Its SHA-256, as sha256sum prints it."
  type        = string

  validation {
    condition     = can(regex("^[0-9a-f]{64}$", var.archive_sha256))
    error_message = "Use 64 lower-case hexadecimal digits."
  }
}

variable "tpm_device" {
  description = "TPM of the machine, by the kernel's resource manager."
  type        = string
  default     = "/dev/tpmrm0"

  validation {
    condition     = can(regex("^/dev/tpmrm[0-9]+$", var.tpm_device))
    error_message = "Use /dev/tpmrm0: /dev/tpm0 is for one process at a time."
  }
}

resource "terraform_data" "host" {
  triggers_replace = [var.host, var.archive_sha256, var.tpm_device, filesha256("${path.module}/install.sh.tftpl")]

  connection {
    type     = "ssh"
    host     = var.host
    host_key = var.host_key
    user     = var.user
    agent    = true
  }

  provisioner "file" {
    source      = var.archive
    destination = "/root/raypher-${var.archive_sha256}.tar.gz"
  }

  provisioner "file" {
    content     = templatefile("${path.module}/install.sh.tftpl", { sha256 = var.archive_sha256, tpm = var.tpm_device })
    destination = "/root/raypher-install.sh"
  }

  provisioner "remote-exec" {
    inline = ["sh /root/raypher-install.sh"]
  }
}

output "next" {
  description = "What is left to a person."
  value       = "Sign a ceiling (share/raypher/ceiling.yaml), enrol the TPM with a verifier (docs/tpm.md), then let users run agents: adduser USER raypher."
}
