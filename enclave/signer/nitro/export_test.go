package nitro

// CheckKernel is for tests with another /sys.
var CheckKernel = checkKernel
