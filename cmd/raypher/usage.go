package main

import "github.com/raypher/raypher/cmd/internal/usage"

// codeUsage ends a command whose command line is wrong; `raypher run`, whose status is the program's, has one of its own.
const codeUsage = usage.Code
