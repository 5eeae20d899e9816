// Package proto holds the protocol definitions; the generated Go lies beside each .proto file.
package proto

//go:generate protoc -I . --go_out=. --go_opt=paths=source_relative --go-grpc_out=. --go-grpc_opt=paths=source_relative controller/v1/controller.proto enclave/v1/enclave.proto parent/v1/parent.proto
