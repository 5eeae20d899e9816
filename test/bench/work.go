package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"time"
)

// targetAddress is where the measured connects go; the governed ones are granted it.
const targetAddress = "127.0.0.1:8080"

// works are what is measured inside one process, so that starting it does not count. Each does one operation.
var works = map[string]func() error{
	"connect": func() error {
		conn, err := net.Dial("tcp4", targetAddress)
		if err != nil {
			return err
		}
		// A reset instead of TIME_WAIT, or the loop runs out of ports.
		if err := conn.(*net.TCPConn).SetLinger(0); err != nil {
			return err
		}
		return conn.Close()
	},
	"open": func() error {
		file, err := os.Open("/usr/bin/env")
		if err != nil {
			return err
		}
		return file.Close()
	},
	"exec": func() error { return exec.Command("/bin/true").Run() },
}

// work does count operations of one kind and prints the nanoseconds that one took on the average.
func work(name string, count int) error {
	operation, ok := works[name]
	if !ok {
		return fmt.Errorf("no work called %q", name)
	}
	for range count / 10 { // warm up
		if err := operation(); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	began := time.Now()
	for range count {
		if err := operation(); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	fmt.Println(time.Since(began).Nanoseconds() / int64(count))
	return nil
}
