# The instance's role, and the key whose policy names the enclaves.

data "aws_iam_policy_document" "ec2" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["ec2.amazonaws.com"]
    }
  }
}

resource "aws_iam_role" "host" {
  name_prefix        = "${var.name}-"
  assume_role_policy = data.aws_iam_policy_document.ec2.json
  tags               = var.tags
}

resource "aws_iam_instance_profile" "host" {
  name_prefix = "${var.name}-"
  role        = aws_iam_role.host.name
  tags        = var.tags
}

data "aws_iam_policy_document" "host" {
  statement {
    sid       = "Release"
    actions   = ["s3:GetObject"]
    resources = ["arn:${data.aws_partition.current.partition}:s3:::${var.release.bucket}/${var.release.key}"]
  }

  # One statement for each image: registers of two images do not make a third.
  dynamic "statement" {
    for_each = var.images

    content {
      sid       = "Enclave${statement.key}"
      actions   = ["kms:Decrypt"]
      resources = [aws_kms_key.secrets.arn]

      dynamic "condition" {
        for_each = { for register, value in statement.value : upper(register) => value }

        content {
          test     = "StringEqualsIgnoreCase"
          variable = "kms:RecipientAttestation:${condition.key}"
          values   = [condition.value]
        }
      }
    }
  }
}

resource "aws_iam_role_policy" "host" {
  name_prefix = "${var.name}-"
  role        = aws_iam_role.host.id
  policy      = data.aws_iam_policy_document.host.json
}

resource "aws_kms_key" "secrets" {
  description         = "${var.name}: secrets of attested enclaves"
  enable_key_rotation = true
  policy              = data.aws_iam_policy_document.key.json
  tags                = var.tags
}

resource "aws_kms_alias" "secrets" {
  name          = "alias/${var.name}-secrets"
  target_key_id = aws_kms_key.secrets.key_id
}

data "aws_iam_policy_document" "key" {
  statement {
    sid       = "Administer"
    resources = ["*"]

    actions = [
      "kms:CancelKeyDeletion", "kms:CreateAlias", "kms:DeleteAlias", "kms:DescribeKey", "kms:DisableKey", "kms:EnableKey", "kms:EnableKeyRotation",
      "kms:Encrypt", "kms:GetKeyPolicy", "kms:GetKeyRotationStatus", "kms:ListResourceTags", "kms:PutKeyPolicy", "kms:ScheduleKeyDeletion",
      "kms:TagResource", "kms:UntagResource", "kms:UpdateAlias", "kms:UpdateKeyDescription",
    ]

    principals {
      type        = "AWS"
      identifiers = var.key_administrators
    }
  }

  dynamic "statement" {
    for_each = var.images

    content {
      sid       = "Enclave${statement.key}"
      actions   = ["kms:Decrypt"]
      resources = ["*"]

      principals {
        type        = "AWS"
        identifiers = [aws_iam_role.host.arn]
      }

      dynamic "condition" {
        for_each = { for register, value in statement.value : upper(register) => value }

        content {
          test     = "StringEqualsIgnoreCase"
          variable = "kms:RecipientAttestation:${condition.key}"
          values   = [condition.value]
        }
      }
    }
  }

  # Whoever asks without a document, or with that of another image, is refused, whatever else allows it.
  statement {
    sid       = "NobodyElse"
    effect    = "Deny"
    actions   = ["kms:CreateGrant", "kms:Decrypt", "kms:ReEncryptFrom"]
    resources = ["*"]

    principals {
      type        = "*"
      identifiers = ["*"]
    }

    condition {
      test     = "StringNotEqualsIgnoreCase"
      variable = "kms:RecipientAttestation:PCR0"
      values   = length(var.images) > 0 ? [for i in var.images : i.pcr0] : ["none"]
    }
  }
}
