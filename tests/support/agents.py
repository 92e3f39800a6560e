"""An agent as people write one, without a network: its model is a script."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain.agents import create_agent
from langchain.agents.middleware import HumanInTheLoopMiddleware
from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolCall, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import tool


class ScriptedModel(BaseChatModel):
    """Calls each of its `calls` in a first reply, and then says what the tools have returned."""

    calls: tuple[tuple[str, dict[str, Any]], ...] = ()

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools: Sequence[Any], **options: Any) -> Runnable[Any, AIMessage]:
        return self

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **options: Any,
    ) -> ChatResult:
        results = [str(each.content) for each in messages if isinstance(each, ToolMessage)]
        calls = [] if results else self.calls
        reply = AIMessage(
            content=" ".join(results) or f"{messages[-1].content}!",
            tool_calls=[ToolCall(name=name, args=given, id=name) for name, given in calls],
        )
        return ChatResult(generations=[ChatGeneration(message=reply)])


expert = create_agent(ScriptedModel(), tools=[], name="expert")


@tool
def ask_expert(question: str) -> str:
    """Asks another agent."""
    said = expert.invoke({"messages": [HumanMessage(question)]})
    return str(said["messages"][-1].content)


@tool
def send_mail(to: str) -> str:
    """Sends a mail."""
    return f"sent to {to}"


WORKFLOWS = {
    "mailing-agent": create_agent(
        ScriptedModel(calls=(("ask_expert", {"question": "Now"}), ("send_mail", {"to": "all"}))),
        tools=[ask_expert, send_mail],
        middleware=[HumanInTheLoopMiddleware(interrupt_on={"send_mail": True})],
        name="mailing-agent",
    )
}
