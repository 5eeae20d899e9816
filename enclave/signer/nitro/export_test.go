package nitro

// For tests with another device than the kernel's, and with another /sys.
var (
	NewDevice   = newDevice
	CheckKernel = checkKernel
)
