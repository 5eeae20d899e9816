output "instance_id" {
  description = "Of the host; PCR4 of its enclaves is SHA384(48 zero bytes || this)."
  value       = aws_instance.host.id
}

output "role_arn" {
  description = "Of the instance's role; PCR3 of its enclaves is SHA384(48 zero bytes || this)."
  value       = aws_iam_role.host.arn
}

output "kms_key_arn" {
  description = "For `kms_secret` in the start configuration."
  value       = aws_kms_key.secrets.arn
}
