// Package proto holds the protocol definitions; the generated Go lies beside each .proto file.
package proto

//go:generate protoc -I . --go_out=. --go_opt=paths=source_relative --go-grpc_out=. --go-grpc_opt=paths=source_relative controller/v1/controller.proto enclave/v1/enclave.proto parent/v1/parent.proto
//go:generate protoc -I . --grpc-gateway_out=controller/v1/gateway --grpc-gateway_opt=module=github.com/raypher/raypher/proto/controller/v1,standalone=true,grpc_api_configuration=controller/v1/http.yaml --openapiv2_out=controller/v1/gateway --openapiv2_opt=grpc_api_configuration=controller/v1/http.yaml,openapi_configuration=controller/v1/openapi.yaml,allow_merge=true,merge_file_name=openapi controller/v1/controller.proto
