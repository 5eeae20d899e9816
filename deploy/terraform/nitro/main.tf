# An EC2 instance that runs raypherd and its enclave, and a KMS key that only this enclave decrypts with. No part of this was applied.

data "aws_partition" "current" {}
data "aws_caller_identity" "current" {}
data "aws_region" "current" {}

data "aws_subnet" "host" {
  id = var.subnet_id
}

data "aws_ami" "host" {
  owners      = var.ami_id == "" ? ["amazon"] : null
  most_recent = true

  filter {
    name   = var.ami_id == "" ? "name" : "image-id"
    values = [var.ami_id == "" ? "al2023-ami-2023.*-${var.architecture}" : var.ami_id]
  }
}

resource "aws_security_group" "host" {
  name_prefix = "${var.name}-"
  description = "No way in; HTTPS out"
  vpc_id      = data.aws_subnet.host.vpc_id
  tags        = var.tags

  lifecycle {
    create_before_destroy = true
  }
}

# There is no ingress rule. Operators come in by Systems Manager, if they give the role that right.
resource "aws_vpc_security_group_egress_rule" "https" {
  for_each = toset(var.egress_cidrs)

  security_group_id = aws_security_group.host.id
  description       = "HTTPS"
  cidr_ipv4         = each.value
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
}

resource "aws_instance" "host" {
  ami                         = data.aws_ami.host.id
  instance_type               = var.instance_type
  subnet_id                   = var.subnet_id
  vpc_security_group_ids      = [aws_security_group.host.id]
  iam_instance_profile        = aws_iam_instance_profile.host.name
  associate_public_ip_address = false
  ebs_optimized               = true
  user_data_replace_on_change = true
  tags                        = merge(var.tags, { Name = var.name })

  user_data = templatefile("${path.module}/user_data.sh.tftpl", {
    bucket = var.release.bucket
    key    = var.release.key
    sha256 = var.release.sha256
    region = data.aws_region.current.name
    cid    = var.enclave_cid
    cpus   = var.enclave_cpus
    memory = var.enclave_memory_mib
  })

  enclave_options {
    enabled = true
  }

  # Version 2 only, and for this host alone: containers behind another hop get no credentials.
  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
    instance_metadata_tags      = "disabled"
  }

  root_block_device {
    encrypted   = true
    volume_type = "gp3"
  }

  lifecycle {
    precondition {
      condition     = !var.nitro_tpm || (data.aws_ami.host.tpm_support == "v2.0" && data.aws_ami.host.boot_mode == "uefi")
      error_message = "The image has no NitroTPM: register it with --boot-mode uefi --tpm-support v2.0."
    }
  }
}
