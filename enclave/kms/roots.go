package kms

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"

	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// amazonRoots are the SHA-256 of the roots under which AWS's endpoints have their certificates: Amazon Root CA 1 to 4 and Starfield Services
// Root Certificate Authority - G2, as https://www.amazontrust.com/repository/ lists them. No other authority can speak for KMS.
var amazonRoots = map[string]bool{
	"8ecde6884f3d87b1125ba31ac3fcb13d7016de7f57cc904fe1cb97c6ae98196e": true,
	"1ba5b2aa8c65401a82960118f80bec4f62304d83cec4713a19c39c011ea46db4": true,
	"18ce6cfe7bf14e60b2e347b8dfe868cb31d02ebb3ada271569f50343b46db3a4": true,
	"e35d28419ed02025cfa69038cd623962458da5c695fbdea3c22b0bfb25897092": true,
	"568d6905a2c88708a4b3025190edcfedb1974a606a13c6e5290fcb2ae63edab5": true,
}

// Roots returns Amazon's roots. An image holds no certificates: these come from Mozilla's list, as the Go project keeps it in a module, and so
// are measured with the program.
func Roots() *x509.CertPool {
	pool := x509.NewCertPool()
	for root := range bundle.Roots() {
		hash := sha256.Sum256(root.Certificate)
		if !amazonRoots[hex.EncodeToString(hash[:])] {
			continue
		}
		certificate, err := x509.ParseCertificate(root.Certificate)
		if err != nil {
			continue // TestRoots: all five are there
		}
		if root.Constraint != nil {
			pool.AddCertWithConstraint(certificate, root.Constraint)
		} else {
			pool.AddCert(certificate)
		}
	}
	return pool
}
