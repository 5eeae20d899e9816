package controllerv1

import _ "embed"

// OpenAPI describes the calls over HTTP: an OpenAPI 2.0 document, in JSON.
//
//go:embed openapi.swagger.json
var OpenAPI []byte
