package server

import (
	"net/http"
)

func (s *Server) handler() (http.Handler, error) {
	mux := http.NewServeMux()
	return mux, nil
}
