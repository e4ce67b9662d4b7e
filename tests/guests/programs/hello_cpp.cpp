// C++ start-up: global constructors, exceptions, streams and strings work before the first request
// and in it.
#include "kvm_api.h"

#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace {
std::vector<std::string> words{"Hello", "World"};
thread_local int requests = 41;

std::string greeting()
{
	std::ostringstream text;
	text << words.at(0) << ' ' << words.at(1);
	try {
		(void)words.at(2);
	} catch (const std::out_of_range &) {
		text << " from C++ " << ++requests;
	}
	return text.str();
}
} // namespace

int main()
{
	const std::string early = greeting();
	requests = 41;
	if (early != "Hello World from C++ 42")
		return 1;
	set_backend_get([](const char *, const char *) {
		const std::string text = greeting();
		backend_response(200, "text/plain", 10, text.data(), text.size());
	});
	wait_for_requests();
}
